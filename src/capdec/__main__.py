from capdec.cli import main

main()
