#!/bin/sh
# Makes the passwords of docker-compose.yml, each in a file of its own; what is there already stays as it is.
# To change one later: write the new one into its file, tell PostgreSQL (ALTER ROLE … PASSWORD), `docker compose up -d`.
#
# The folder is for its owner alone. The files are not: Docker lays them into containers as they are, and there other
# users read them (PostgreSQL's, ours), each of whom sees only the files that its service names.
set -eu
umask 022
folder=${1:-$(dirname "$0")/secrets}

mkdir -p "$folder"
chmod 700 "$folder"
for name in owner_password app_password figures_password; do
  file=$folder/$name
  if [ -s "$file" ]; then
    echo "$file is there already"
    continue
  fi
  # 32 bytes nobody can guess, as 64 letters and digits; moved into place whole.
  od -An -N32 -tx1 /dev/urandom | tr -d ' \n' >"$file.new"
  echo >>"$file.new"
  mv "$file.new" "$file"
  echo "$file made"
done
