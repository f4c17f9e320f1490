"""What notebooks show: players and figures."""
