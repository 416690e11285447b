# A drill's units out of trading's: the same text with the names of the other group, so that a drill
# tries what an emergency uses (quantum_ess/group.py).
/^#/d
s/\bquantum-ess-\([a-z]\+@\?\)\.\(service\|path\|target\|timer\)\b/quantum-ess-drill-\1.\2/g
s/\bquantum-ess\.service\b/quantum-ess-drill-activate.service/g
s/\bquantum-ess\.path\b/quantum-ess-drill.path/g
s|/run/quantum/ESS_ON|/run/quantum-drill/DRILL_ON|g
s|/run/quantum-ess\b|/run/quantum-ess-drill|g
s|/var/lib/quantum-ess\b|/var/lib/quantum-ess/drill|g
s|/usr/lib/quantum-ess/[a-z]\+|& --group=drill|
s|/usr/bin/quantum-ess\b|& --group=drill|
s/^Description=ESS:/Description=ESS drill:/
/^\[Install\]/,$d
