# Where the package puts what the documents of the source tree link to.
s#\]\(config/(master|worker)\.yaml\)#](/etc/rulesyncd/\1.yaml)#g
s#\]\(config/observability\)#](examples/observability/)#g
s#\]\(src/wire/protocol\.md\)#](protocol.md)#g
s#\]\(\.\./\.\./systemd/#](../#g
s#\]\(benches/growth\.svg\)#](growth.svg)#g
s#\]\(CHANGELOG\.md\)#](changelog.gz)#g
s#\]\(LICENSE\)#](/usr/share/common-licenses/Apache-2.0)#g
s#\]\(src/rule/attack/LICENSE\.txt\)#](copyright)#g
s#\[([^]]*)\]\((CONTRIBUTING\.md|Containerfile|examples/[^)]*|src/[^)]*)\)#\1#g
