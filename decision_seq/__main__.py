import sys

from decision_seq.cli import main

sys.exit(main())
