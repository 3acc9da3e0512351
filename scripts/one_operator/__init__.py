"""Minimal .tflite files of one operator each, to ask a runtime what it runs.

`catalogue.cases()` names every (operator, types) point and builds its file; `asking` puts the files to a runtime.
Used by scripts/make_*_support.py and by tests/test_support.py; nothing of this ships.
"""
