"""`mmdpo eval` as the command line calls it, with errors raised instead of printed."""

from mmdpo.commands.eval import VERB
from mmdpo.options import parse_options


def parse(name, *arguments):
    """Returns the options of a verb."""
    return parse_options(VERB.verbs[name].options, list(map(str, arguments)), f"eval {name}")


def run(*arguments):
    """Runs a verb; returns its exit status."""
    return VERB(list(map(str, arguments)), "eval")
