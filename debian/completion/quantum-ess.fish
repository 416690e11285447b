# fish completion for quantum-ess(8)

function __quantum_ess_incidents
    echo last
    sed -n 's/.*"event": "activated", "incident": "\([^"]*\)".*/\1/p' \
        /var/lib/quantum-ess/history.jsonl 2>/dev/null
end

complete -c quantum-ess -f
complete -c quantum-ess -n __fish_use_subcommand -l version -d 'Show the version'
complete -c quantum-ess -l help -d 'Show help'

complete -c quantum-ess -n __fish_use_subcommand -a activate -d 'Stop all protected units now'
complete -c quantum-ess -n __fish_use_subcommand -a deactivate -d 'Release, and restart in order'
complete -c quantum-ess -n __fish_use_subcommand -a status -d 'Is ESS active, by whom'
complete -c quantum-ess -n __fish_use_subcommand -a check -d 'Find what would make a stop fail'
complete -c quantum-ess -n __fish_use_subcommand -a history -d 'List incidents, or tell one'
complete -c quantum-ess -n __fish_use_subcommand -a log -d 'Show the audit trail'
complete -c quantum-ess -n __fish_use_subcommand -a guard -d 'Activate on the conditions'
complete -c quantum-ess -n __fish_use_subcommand -a migrate -d 'Take over from an old installation'
complete -c quantum-ess -n __fish_use_subcommand -a drill -d 'Prove the stop on canaries'
complete -c quantum-ess -n __fish_use_subcommand -a proof -d 'Prove it: STOPS TRADING'
complete -c quantum-ess -n __fish_use_subcommand -a config -d 'Check the configuration'
complete -c quantum-ess -n __fish_use_subcommand -a metrics -d 'Print metrics for Prometheus'

complete -c quantum-ess -n '__fish_seen_subcommand_from activate deactivate' -l reason -x -d Why
complete -c quantum-ess -n '__fish_seen_subcommand_from deactivate' -l no-start -d 'Start nothing'
complete -c quantum-ess -n '__fish_seen_subcommand_from deactivate' -l override -d 'Despite the guard'
complete -c quantum-ess -n '__fish_seen_subcommand_from guard' -l check -d 'Evaluate once'
complete -c quantum-ess -n '__fish_seen_subcommand_from guard' -l daemon -d 'Detach'
complete -c quantum-ess -n '__fish_seen_subcommand_from migrate' -l apply -d 'Do what is shown'
complete -c quantum-ess -n '__fish_seen_subcommand_from migrate' -l undo -d 'Put it back'
complete -c quantum-ess -n '__fish_seen_subcommand_from status' -s q -l quiet -d 'Only exit status'
complete -c quantum-ess -n '__fish_seen_subcommand_from status' -s w -l watch -d 'Every second'
complete -c quantum-ess -n '__fish_seen_subcommand_from status check history drill proof' -l json
complete -c quantum-ess -n '__fish_seen_subcommand_from history' -l verify -d 'Check the records'
complete -c quantum-ess -n '__fish_seen_subcommand_from history' -a '(__quantum_ess_incidents)'
complete -c quantum-ess -n '__fish_seen_subcommand_from history drill proof' -l report -r -F
complete -c quantum-ess -n '__fish_seen_subcommand_from log' -s f -l follow -d 'Go on'
complete -c quantum-ess -n '__fish_seen_subcommand_from log' -s n -l lines -x -d 'The last N'
complete -c quantum-ess -n '__fish_seen_subcommand_from proof' -l yes -d 'Do not ask first'
complete -c quantum-ess -n '__fish_seen_subcommand_from metrics' -l write -d 'For node_exporter'
