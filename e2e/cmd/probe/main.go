// Command probe is the application of the tests' pods: it reads token files as hard as it can and says what it saw,
// and never logs a token.
//
//	probe sleep [CODE]           waits to be stopped, and ends with the exit code
//	probe watch [-every TIME] DURATION FILE…
//	                              reads each FILE every millisecond, or TIME, and follows its directory with inotify; then, or at
//	                              SIGTERM, prints a Report
//	probe cat FILE                prints a file as it is (the tests hand the token to the API server's TokenReview)
//	probe env                     prints the environment
//	probe kill PROGRAM            sends SIGKILL to the processes that run PROGRAM
//	probe stop PROGRAM ARGUMENT…  sends SIGTERM to the processes that run PROGRAM with these first arguments
//	probe harass TIMES PROGRAM FILE
//	                              has PROGRAM replace FILE and kills it while it does, again and again
//	probe connect ADDRESS         opens a TCP connection, within three seconds
//	probe hold -kind KIND [-connections NUMBER] [-for TIME] ADDRESS…
//	                              holds connections to webhooks open (attack.Hold), and prints an attack.Held
//	probe list DIRECTORY          prints the names in it
//	probe listen [-status CODE] PORT
//	                              serves HTTP on the loopback under the process name listener; prints a Told for each POST and SIGHUP
//	probe mint FLAGS SPEC         asks for a token with a credential that it finds in the pod, and prints the answer without the token
//	probe race RACE               runs an attack.Race (JSON) until something comes on the standard input, and prints its attack.Result
//	probe rows VICTIM             sends each of attack.TokenRequests with the sidecar's credential, and prints the answers
//	probe stat FILE…              prints one FileStat per line, and fails when a file cannot be read
//	probe tamper ACTION FILE [PROGRAM ARGUMENT]
//	                              does something to FILE: delete, overwrite, truncate, chmod, symlink, folder, full-folder, or
//	                              fill, which makes a file that leaves no room for others; with a PROGRAM and its first argument, to
//	                              the FILE that the process which runs it sees
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "probe:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) == 0 {
		return fmt.Errorf("no command; want one of the package's documentation")
	}
	switch args[0] {
	case "sleep":
		stop := make(chan os.Signal, 1)
		signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
		<-stop
		if len(args) > 1 {
			code, err := strconv.Atoi(args[1])
			if err != nil {
				return err
			}
			os.Exit(code)
		}
		return nil
	case "watch":
		flags := flag.NewFlagSet("watch", flag.ContinueOnError)
		every := flags.Duration("every", time.Millisecond, "")
		if err := flags.Parse(args[1:]); err != nil {
			return err
		}
		if flags.NArg() < 2 {
			return fmt.Errorf("watch wants a duration and files")
		}
		d, err := time.ParseDuration(flags.Arg(0))
		if err != nil {
			return err
		}
		report, err := watch(d, *every, flags.Args()[1:])
		if err != nil {
			return err
		}
		return json.NewEncoder(os.Stdout).Encode(report)
	case "cat":
		if len(args) != 2 {
			return fmt.Errorf("cat wants a file")
		}
		data, err := os.ReadFile(args[1])
		if err != nil {
			return err
		}
		_, err = os.Stdout.Write(data)
		return err
	case "env":
		for _, variable := range os.Environ() {
			fmt.Println(variable)
		}
		return nil
	case "kill":
		if len(args) != 2 {
			return fmt.Errorf("kill wants a program")
		}
		return kill(args[1], syscall.SIGKILL)
	case "stop":
		if len(args) < 3 {
			return fmt.Errorf("stop wants a program and arguments") // without, it could be the pod's own first process
		}
		return kill(strings.Join(args[1:], "\x00"), syscall.SIGTERM)
	case "harass":
		if len(args) != 4 {
			return fmt.Errorf("harass wants a number, a program and a file")
		}
		times, err := strconv.Atoi(args[1])
		if err != nil {
			return err
		}
		return harass(args[2], args[3], times)
	case "list":
		if len(args) != 2 {
			return fmt.Errorf("list wants a directory")
		}
		entries, err := os.ReadDir(args[1])
		for _, entry := range entries {
			fmt.Println(entry.Name())
		}
		return err
	case "connect":
		if len(args) != 2 {
			return fmt.Errorf("connect wants an address")
		}
		return connect(args[1])
	case "hold":
		return hold(args[1:])
	case "listen":
		return listen(args[1:])
	case "mint":
		answer, err := mint(args[1:])
		if err != nil {
			return err
		}
		return json.NewEncoder(os.Stdout).Encode(answer)
	case "race":
		return race(args[1:])
	case "rows":
		return rows(args[1:])
	case "stat":
		for _, f := range args[1:] {
			s := statFile(f)
			if err := json.NewEncoder(os.Stdout).Encode(s); err != nil {
				return err
			}
			if !s.Readable {
				return fmt.Errorf("%s cannot be read", f)
			}
		}
		return nil
	case "tamper":
		return tamper(args[1:])
	}
	return fmt.Errorf("unknown command %q; want one of the package's documentation", args[0])
}
