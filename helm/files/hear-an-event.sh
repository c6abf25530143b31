# Listen, publish until something is heard, give up after half a minute. A message published before the stream was
# open would be missed, so it is published again each second.
sidecar tail -n 1 "$STREAM" &
listener=$!
try=0
while kill -0 $listener 2>/dev/null; do
  try=$((try + 1))
  if [ $try -gt "${TRIES:-30}" ]; then
    kill $listener
    echo "no event at $STREAM within ${TRIES:-30} tries" >&2
    exit 1
  fi
  sidecar publish -c "$CONFIG" "$EXCHANGE" "$ROUTING_KEY" "helm test" || { kill $listener; exit 1; }
  sleep 1
done
wait $listener
