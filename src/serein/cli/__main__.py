"""`python -m serein.cli`, as `torchrun -m` needs it."""

from serein.cli import main

if __name__ == "__main__":
    main()
