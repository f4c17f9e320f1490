"""How the embedded model is made: foley, corpus, training, report."""
