#!/bin/sh
# What OSCAR and SCAR run for each file, in the image of deploy/docker/lambda.Dockerfile: the example handler's own
# function. The supervisor has put the file at INPUT_FILE_PATH and uploads what is then in TMP_OUTPUT_DIR. Where the GPU
# is, and who asks, is in REMOTEGPU_URL and the other variables of the client.
set -eu
cd "${LAMBDA_TASK_ROOT:-/var/task}"
exec python -c '
import json
import sys
from pathlib import Path

from handler import detect

picture, folder = Path(sys.argv[1]), Path(sys.argv[2])
found = detect(picture.read_bytes())
(folder / (picture.stem + ".json")).write_text(json.dumps(found))
' "$INPUT_FILE_PATH" "$TMP_OUTPUT_DIR"
