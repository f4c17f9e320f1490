"""What a maintainer runs; no lesson imports it."""
