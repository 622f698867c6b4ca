"""`python -m api.cli`, where `wenming` is not on the path."""

from api.cli import main

if __name__ == "__main__":
    main()
