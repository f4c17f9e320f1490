"""Methods against each other: running them, choosing a setting, intervals, tables and figures."""
