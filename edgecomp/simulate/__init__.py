"""Instructions of one inference on an aarch64 core, counted by an emulator."""
