# What the scripts of this directory share: how they speak, and Debian packages without root.
# shellcheck shell=bash

say() { printf 'setup: %s\n' "$*" >&2; }

stop() {
  printf 'setup: %s\n' "$*" >&2
  exit 1
}

version_of_python() { "$1" -c 'import sys; print(*sys.version_info[:2])' 2>/dev/null; }

# Debian's packages under lists and a cache of our own: the machine's sources, keys and proxy settings are used, its
# lists, its cache and its installed packages are neither read nor changed. So any user may run this.
readonly APT_HOME=$PWD/.cache/apt

_apt() {
  local command=$1
  shift
  LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive "$command" -c "$APT_HOME/apt.conf" "$@"
}

_apt_configure() {
  mkdir -p "$APT_HOME"/{lists/partial,archives/partial}
  : >"$APT_HOME/status"
  # The hooks are cleared because the machine's own may clean its caches or rebuild its catalogues.
  cat >"$APT_HOME/apt.conf" <<CONF
Dir::State "$APT_HOME";
Dir::State::lists "$APT_HOME/lists";
Dir::State::status "$APT_HOME/status";
Dir::Cache "$APT_HOME";
Dir::Cache::archives "$APT_HOME/archives";
APT::Sandbox::User "$(id -un)";
Acquire::Languages "none";
Acquire::Retries "3";
Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";
Acquire::IndexTargets::deb::Contents-deb::DefaultEnabled "false";
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
CONF
}

_apt_complaint() { grep -m 1 '^[EW]:' "$APT_HOME/log" || echo "the package lists are empty"; }

# Makes apt usable for the functions below, or stops with the line $1. The lists are kept for an hour.
apt_ready() {
  local program
  for program in apt-get apt-cache dpkg-deb; do
    command -v "$program" >/dev/null || stop "$1"
  done
  [[ -z $(find "$APT_HOME/fresh" -mmin -60 2>/dev/null) ]] || return 0
  _apt_configure
  say "reading the list of Debian packages"
  _apt apt-get -qq update >"$APT_HOME/log" 2>&1 || true # one broken source must not hide the others
  apt_offers dpkg || stop "$1 ($(_apt_complaint))"
  touch "$APT_HOME/fresh"
}

apt_offers() { _apt apt-cache show --no-all-versions "$1" >/dev/null 2>&1; }

# apt_unpack DIR PACKAGE...: lays the packages' files under DIR. Their scripts are not run.
apt_unpack() {
  local into=${1:?} debs deb package
  shift
  for package in "$@"; do
    apt_offers "$package" || stop "the Debian packages of this machine have no $package"
  done
  debs=$(mktemp -d "$APT_HOME/debs.XXXXXX")
  (cd "$debs" && _apt apt-get -qq download "$@") >"$APT_HOME/log" 2>&1 ||
    stop "could not fetch $*: $(_apt_complaint)"
  for deb in "$debs"/*.deb; do dpkg-deb -x "$deb" "$into"; done
  rm -rf "$debs"
  if [[ -d $into/lib ]]; then # some libraries still come as /lib/…, which is a link to /usr/lib on every machine
    mkdir -p "$into/usr/lib"
    cp -a "$into/lib/." "$into/usr/lib/"
    rm -rf "${into:?}/lib"
  fi
}
