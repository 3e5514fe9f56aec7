# What a fake program needs to speak as Codex's app-server does: one thread, one turn.

# Reads the opening; "$resumed" says whether the thread is gone on with.
opening() {
  read -r line && read -r line && read -r line || exit 0
  ask=${line#*\"id\":\"}; ask=${ask%%\"*}
  case "$line" in *'"thread/resume"'*) resumed='resume t-1' ;; *) resumed= ;; esac
}
# Keeps the text of the message that is read next in file $1.
keep() {
  read -r line || exit 0
  text=${line#*\"text\":\"}; text=${text%%\",\"type\":\"text\"*}
  printf '%b' "$(printf '%s' "$text" | sed 's/\\"/"/g')" > "$1"
}
# Tells the thread, and keeps the prompt in file $1.
thread() {
  echo '{"id":"'"$ask"'","result":{"thread":{"id":"t-1"}}}'
  keep "$1"
  echo '{"id":"prompt","result":{"turn":{"id":"u-1"}}}'
}
# The thread is not known any more.
forgotten() {
  echo '{"id":"'"$ask"'","error":{"code":-32600,"message":"no rollout found for thread id t-1"}}'
  cat > /dev/null; exit 0
}
item() { echo '{"method":"item/'"$1"'","params":{"threadId":"t-1","turnId":"u-1","item":'"$2"'}}'; }
says() { item completed '{"type":"agentMessage","id":"'"$1"'","text":"'"$2"'"}'; }
calls() { item started '{"type":"commandExecution","id":"'"$1"'","command":"'"$2"'","status":"inProgress"}'; }
gives() {
  item completed '{"type":"commandExecution","id":"'"$1"'","command":"'"$2"'","aggregatedOutput":"ok","exitCode":0,"status":"completed"}'
}
# The turn is over, with $1 tokens in and $2 out of the thread; it goes when its input ends.
over() {
  echo '{"method":"thread/tokenUsage/updated","params":{"threadId":"t-1","turnId":"u-1","tokenUsage":{"total":{"inputTokens":'"$1"',"cachedInputTokens":0,"outputTokens":'"$2"'}}}}'
  echo '{"method":"turn/completed","params":{"threadId":"t-1","turn":{"id":"u-1","status":"completed"}}}'
  cat > /dev/null
}
