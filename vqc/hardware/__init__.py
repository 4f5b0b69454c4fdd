"""The machine: GPU, memory, precision, temperature."""
