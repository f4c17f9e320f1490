"""What nbval compares in the lessons."""


def pytest_collectstart(collector):
    """Leave players and warnings out of the comparison: they differ from machine to machine.

    Audio players are HTML that holds the samples, and samples differ in the last digits; the cells
    assert what matters about them instead.
    """
    if hasattr(collector, "skip_compare"):
        collector.skip_compare += ("text/html", "stderr")
