# One round of work every $INTERVAL seconds.
set -eu
round=0
while true; do
  round=$((round + 1))
  echo "round $round"
  touch last-round
  sleep "$INTERVAL"
done
