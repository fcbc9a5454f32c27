"""`python -m serein.cli`, for `torchrun -m`."""

from serein.cli import main

if __name__ == "__main__":
    main()
