// Forwards connections from one address to another, with io.Copy in both directions.
package main

import (
	"io"
	"log"
	"net"
	"os"
)

func main() {
	listener, err := net.Listen("tcp", os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	for {
		client, err := listener.Accept()
		if err != nil {
			log.Fatal(err)
		}
		go forward(client.(*net.TCPConn), os.Args[2])
	}
}

func forward(client *net.TCPConn, address string) {
	defer client.Close()
	dialled, err := net.Dial("tcp", address)
	if err != nil {
		log.Print(err)
		return
	}
	server := dialled.(*net.TCPConn)
	defer server.Close()
	done := make(chan struct{})
	go func() {
		copyAll(server, client)
		close(done)
	}()
	copyAll(client, server)
	<-done
}

// copyAll ends with the end of what it reads, and passes that end on. Between two TCP sockets, io.Copy splices.
func copyAll(to, from *net.TCPConn) {
	if _, err := io.Copy(to, from); err != nil {
		log.Print(err)
	}
	to.CloseWrite()
}
