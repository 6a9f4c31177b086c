say() { printf '%s\n' "$*" >&2; }
# The value of such a path with one spelling: of a choice the one in brackets, one space between numbers,
# masks of CPUs without commas and zeros in front.
bare() {
  case $2 in
  *'['*']'*) bare=${2#*'['} && printf '%s\n' "${bare%%']'*}" ;;
  *)
    case $1 in
    *_cpus) printf '%s\n' "$2" | tr -d , | sed 's/^0*\(.\)/\1/' | tr A-F a-f ;;
    *) printf '%s\n' "$2" | tr -s ' \t' '  ' | sed 's/^ //;s/ $//' ;;
    esac
    ;;
  esac
}
now() { bare "$1" "$(cat "$ROOT$1")"; }
new() { printf '%s%s.online-status-new' "$ROOT" "$1"; }
reload() { if [ -d "$ROOT/run/systemd/system" ]; then systemctl daemon-reload || say "note: systemctl daemon-reload failed"; fi; }

problems=
problem() { problems="$problems  $*
"; }
stop_at_problems() {
  [ -z "$problems" ] || {
    case $problems in
    *'No space left'* | *'quota exceeded'*) set -- "There is no room to write: make some, then go on" ;;
    esac
    say "nothing was changed:
$problems$1"
    tidy
    exit 1
  }
}
# Opens it for writing, and writes nothing.
is_writable() { [ -f "$1" ] && (: >>"$1") 2>/dev/null; }
need_tools() {
  for tool in cat tr sed mkdir rmdir mv rm ln chmod readlink dirname $TOOLS; do
    command -v "$tool" >/dev/null || problem "$tool is missing"
  done
  [ ! -d "$ROOT/run/systemd/system" ] || command -v systemctl >/dev/null || problem "systemctl is missing"
}
may_write_value() {
  is_writable "$ROOT$2" || { problem "$2 cannot be written"; return; }
  case $(now "$2") in
  "$(bare "$2" "$3")" | "$(bare "$2" "$4")") ;;
  *) problem "$2 is $(now "$2"), and was $3 when this script was written: write it anew, on this host" ;;
  esac
}
# The files whole, beside their places.
folders=
folder_of() {
  folder=$(dirname "$1")
  if [ ! -d "$ROOT$folder" ]; then
    why=$(mkdir -p "$ROOT$folder" 2>&1) || { problem "$folder cannot be made: ${why##*: }"; return 1; }
    folders="$folder $folders"
  fi
}
stage() {
  if [ -e "$ROOT$1" ] || [ -L "$ROOT$1" ]; then
    { [ -f "$ROOT$1" ] && [ ! -L "$ROOT$1" ] && [ "$(cat "$ROOT$1")" = "$(text "$1")" ]; } ||
      problem "$1 is there, and not of this script: move it away, or undo what has made it"
  fi
  folder_of "$1" || return
  why=$( (text "$1" >"$(new "$1")" && chmod 644 "$(new "$1")") 2>&1) || problem "$1 cannot be written: ${why##*: }"
}
stage_link() {
  [ -n "$LINK" ] || return 0
  if [ -e "$ROOT$LINK" ] || [ -L "$ROOT$LINK" ]; then
    [ "$(readlink "$ROOT$LINK")" = "$TARGET" ] || problem "$LINK is there, and not of this script: move it away"
    return
  fi
  folder_of "$LINK" || return
  ln -s "$TARGET" "$(new "$LINK")" 2>/dev/null || problem "$LINK cannot be made"
}
remove_new() { rm -f "$(new "$1")"; }
# What is not whole, and the folders that nothing came into.
tidy() {
  files remove_new
  if [ -n "$LINK" ]; then remove_new "$LINK"; fi
  for folder in $folders; do rmdir "$ROOT$folder" 2>/dev/null; done
  return 0
}

# What was done, the last first: lines of shell that take it back.
done_so_far=
did() { done_so_far="$1
$done_so_far"; }
quote() { printf "'"; printf '%s' "$1" | sed "s/'/'\\\\''/g"; printf "'"; }
back() {
  trap '' HUP INT TERM
  say "$1; what had been changed is taken back"
  left=
  eval "$done_so_far"
  tidy
  reload
  [ -z "$left" ] || say "and it could not be taken back:$left"
  exit 1
}
put() { (printf '%s\n' "$2" >"$ROOT$1") 2>/dev/null; }
put_back() { put "$1" "$2" || left="$left $1 = $2;"; }
run_back() { eval "$1" >/dev/null || left="$left $1;"; }
apply_value() {
  was=$(now "$2")
  [ "$was" != "$(bare "$2" "$4")" ] || return 0
  if put "$2" "$4"; then
    did "put_back $(quote "$2") $(quote "$was")"
  elif [ "$1" = may ]; then
    say "left as it was: $2: the kernel does not take $4"
  else
    back "$2: $4 could not be written"
  fi
}
apply_run() {
  eval "$1" >/dev/null || back "$1 failed"
  did "run_back $(quote "$2")"
}
apply_file() {
  if [ -e "$ROOT$1" ]; then remove_new "$1"; return; fi
  mv "$(new "$1")" "$ROOT$1" || back "$1 could not be written"
  did "rm -f $(quote "$ROOT$1") || left=\"\$left $1;\""
}

undo_value() {
  [ -f "$ROOT$2" ] || return 0
  [ "$(now "$2")" = "$(bare "$2" "$4")" ] || return 0
  is_writable "$ROOT$2" || problem "$2 cannot be written"
}
# Whether a file can be made, and so removed, where this one is.
undo_file() {
  [ -e "$ROOT$1" ] || return 0
  why=$( (: >"$(new "$1")") 2>&1) || problem "$1 cannot be removed: ${why##*: }"
  remove_new "$1"
}
failed=0
taken=
take_value() {
  if [ ! -f "$ROOT$2" ]; then
    say "left as it is: $2: this host does not have it any more"
    return
  fi
  is=$(now "$2")
  if [ "$is" = "$(bare "$2" "$4")" ]; then
    taken=yes
    put "$2" "$3" || { say "$2: $3 could not be written"; failed=1; }
  elif [ "$is" != "$(bare "$2" "$3")" ]; then
    say "left as it is: $2 = $is: somebody has changed it since"
  fi
}
take_run() { eval "$2" >/dev/null || { say "$2 failed"; failed=1; }; }
take_file() {
  if [ ! -e "$ROOT$1" ] && [ ! -L "$ROOT$1" ]; then return; fi
  taken=yes
  if [ ! -L "$ROOT$1" ] && [ "$(cat "$ROOT$1")" = "$(text "$1")" ]; then
    rm -f "$ROOT$1" || failed=1
    case $(dirname "$1") in *.service.d) rmdir "$ROOT$(dirname "$1")" 2>/dev/null ;; esac
  else
    say "left as it is: $1: somebody has changed it since"
  fi
}

case "${1:-}" in
apply)
  trap 'tidy; exit 1' HUP INT TERM
  need_tools
  stop_at_problems "Put it there, then apply again"
  values may_write_value
  files stage
  stage_link
  stop_at_problems "As root it goes, where what is read-only is mounted writable"
  trap 'back "it was interrupted"' HUP INT TERM
  values apply_value
  runs apply_run
  files apply_file
  if [ -n "$LINK" ] && [ ! -L "$ROOT$LINK" ]; then
    mv "$(new "$LINK")" "$ROOT$LINK" || back "$LINK could not be made"
    did "rm -f $(quote "$ROOT$LINK")"
  fi
  trap - HUP INT TERM
  reload
  ;;
undo)
  need_tools
  values undo_value
  files undo_file
  stop_at_problems "As root it goes, where what is read-only is mounted writable"
  values take_value
  runs take_run
  if [ -n "$LINK" ] && [ "$(readlink "$ROOT$LINK")" = "$TARGET" ]; then rm -f "$ROOT$LINK" || failed=1; fi
  files take_file
  [ -n "$taken" ] || say "nothing of this script is here to be taken back"
  reload
  if [ -e "$ROOT/var/lib/online-status-tuning/changes.json" ]; then
    say "what the unit of this script made at a boot: online-status-tuning undo takes it back"
  fi
  exit "$failed"
  ;;
*)
  echo "usage: $0 apply|undo" >&2
  exit 2
  ;;
esac
