"""The demonstration county: Gangu's real townships and villages, invented people, the commands anybody would use.

`api.demo.run` fills a ledger; `words`, `county`, `story` and `fraud` say with what. Only the command line imports this
package.
"""
