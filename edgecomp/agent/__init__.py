"""What runs on the device: `agent.py` measures, `keeper.py` tidies up after it; `remote.py` is the host's side."""
