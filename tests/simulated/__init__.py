"""A device that is not the CPU, made in Python, so that tests show what a GPU would do."""
