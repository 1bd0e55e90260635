"""Published experiments, done again: `aboutface bench NAME`. Protocols, tables and goals; no method lives here."""
