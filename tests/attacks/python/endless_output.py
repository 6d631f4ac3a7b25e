# property: endless output is cut and ends the program
# expect: output

while True:
    print("x" * 1000)
