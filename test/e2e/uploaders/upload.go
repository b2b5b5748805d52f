// Uploads a picture with Go's mime/multipart. Usage: upload URL FILE; prints the response's body.
package main

import (
	"bytes"
	"io"
	"mime/multipart"
	"net/http"
	"os"
)

func main() {
	picture, err := os.ReadFile(os.Args[2])
	check(err)
	var body bytes.Buffer
	form := multipart.NewWriter(&body)
	check(form.WriteField("T", "1"))
	part, err := form.CreateFormFile("image", `my "best" café photo.png`)
	check(err)
	_, err = part.Write(picture)
	check(err)
	check(form.Close())
	response, err := http.Post(os.Args[1], form.FormDataContentType(), &body)
	check(err)
	_, err = io.Copy(os.Stdout, response.Body)
	check(err)
}

func check(err error) {
	if err != nil {
		panic(err)
	}
}
