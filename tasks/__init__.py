"""The stages of a labeling run: thin Prefect tasks over the functions of ``valflow``."""
