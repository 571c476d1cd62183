#compdef piflow

_piflow_completion() {
  eval $(env _TYPER_COMPLETE_ARGS="${words[1,$CURRENT]}" _PIFLOW_COMPLETE=complete_zsh piflow)
}

compdef _piflow_completion piflow
