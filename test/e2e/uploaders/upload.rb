# Uploads a picture with Ruby's net/http. Usage: upload.rb URL FILE; prints the response's body.
require 'net/http'

url = URI(ARGV[0])
request = Net::HTTP::Post.new(url)
request.set_form([['T', '1'], ['image', File.open(ARGV[1]), { filename: 'my "best" café photo.png' }]], 'multipart/form-data')
puts Net::HTTP.start(url.host, url.port) { |http| http.request(request) }.body
