"""Rewrites the reference pages: `python -m decision_seq.reference`."""

from decision_seq.reference.pages import write

if __name__ == "__main__":
    for path in write():
        print(f"written: {path}")
