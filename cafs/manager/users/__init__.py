"""Who may do what: accounts, roles, passwords, tokens, and what was changed by whom."""
