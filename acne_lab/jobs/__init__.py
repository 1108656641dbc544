"""The verbs: `python -m acne_lab.jobs VERB overrides...` runs the function VERB of the module VERB here."""
