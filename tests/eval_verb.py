"""`mmdpo eval` as the command line calls it, with errors raised instead of printed."""

import argparse

from mmdpo.evaluation.command import add_eval_verb


def parse(*arguments):
    parser = argparse.ArgumentParser()
    add_eval_verb(parser.add_subparsers())
    return parser.parse_args(["eval", *map(str, arguments)])


def run(*arguments):
    options = parse(*arguments)
    return options.verb(options)
