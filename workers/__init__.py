"""Acts: consumers, the executor, and the gate through which tools are reached."""
