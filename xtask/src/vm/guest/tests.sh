# Runs the tests, after the host has set FILTER and DEMO.
echo "@recoup doctor"
recoup doctor --json
echo "@recoup end $?"
for test in /tests/*; do
    [ -e "$test" ] || continue
    echo "@recoup tests ${test##*/}"
    "$test" --test-threads=1 --show-output ${FILTER:+"$FILTER"}
    echo "@recoup end $?"
done
if [ "$DEMO" ]; then
    echo "@recoup program recoup demo"
    recoup demo
    echo "@recoup end $?"
fi
