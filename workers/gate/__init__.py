"""The gate: the one door through which tools are reached."""
