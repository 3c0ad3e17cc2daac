"""The figures by subject, and the suites that gather them."""
