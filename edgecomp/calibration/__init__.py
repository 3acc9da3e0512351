"""The cost model's constants for one board: small models are made, timed on it, and fitted to.

`models` makes the files, `fit` finds the constants, `calibrate` puts both together around whatever takes the times,
`correct` lets later measurements of real models adjust the result.
"""
