"""The vault: memory and audit. Seals what happened so that tampering shows."""
