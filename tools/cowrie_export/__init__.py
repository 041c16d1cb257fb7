"""cowrie-export: writes the targets of cowrie_enrich in the formats of other tools.

`program` reads the arguments, `database` reads the targets in one read-only snapshot, and one module for each format turns
targets into text. `output` replaces a file at once. Only the modules `stix` and `misp` import libraries of their formats.
"""
