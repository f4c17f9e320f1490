"""How good an edit is: CLAP scores and onsets."""
