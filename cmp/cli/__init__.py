"""The commands: one file per subcommand of `cmp-motion`, each of which parses, calls the library and prints.

`cmp.cli.main` has the table of all of them. The scripts in `tools/` call the same functions. Libraries are imported
when the arguments are known, so that `--help` and wrong arguments are answered at once.
"""
