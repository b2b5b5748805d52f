<?php
// Uploads a picture with PHP's curl. Usage: upload.php URL FILE; prints the response's body.
$curl = curl_init($argv[1]);
$picture = new CURLFile($argv[2], 'image/png', 'my "best" café photo.png');
curl_setopt($curl, CURLOPT_POSTFIELDS, ['T' => '1', 'image' => $picture]);
curl_exec($curl);
