"""`--two-of-today`: not all lessons on every day, but all of them in turn."""

from datetime import date


def pytest_addoption(parser):
    parser.addoption("--two-of-today", action="store_true", help="two lessons, chosen by the day")


def pytest_collection_modifyitems(config, items):
    if config.getoption("--two-of-today"):
        lessons = [item for item in items if "[" in item.name]
        first = 2 * date.today().toordinal()
        today = {(first + offset) % len(lessons) for offset in range(2)}
        left_out = [item for number, item in enumerate(lessons) if number not in today]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]
