"""The HTTP and command-line contract as data: one row a rule, checked by test_contract.py."""
