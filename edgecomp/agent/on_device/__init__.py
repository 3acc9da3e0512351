"""The agent: all that runs on the device, sent there as one file. Python 3.7 or newer, numpy and a TFLite runtime."""
