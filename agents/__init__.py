"""Thinks: the minds of the phases, beside the profiles that say what each may do."""
