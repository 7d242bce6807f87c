#compdef packhold
# zsh completion for packhold

_packhold() {
    local -a found
    local line word
    while IFS= read -r line; do
        word=${line%%$'\t'*}
        found+=("${word//:/\\:}:${line#*$'\t'}")
    done < <("${words[1]}" __complete --current="${words[CURRENT]}" -- "${(@)words[2,CURRENT-1]}" 2>/dev/null)
    if (( $#found )); then
        _describe packhold found
    else
        compset -P '--*='
        _files
    fi
}

if [[ "${funcstack[1]}" == _packhold ]]; then
    _packhold "$@"
else
    compdef _packhold packhold
fi
