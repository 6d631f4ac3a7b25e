"""What a Python program calls, as `submodel.NAME`; the verbs of the command line call the same functions."""
