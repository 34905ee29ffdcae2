# A linear model: a table of coefficients by name.
coefficients <- read.csv("/mnt/model/foreign-speed.csv")

#* @get /health
#* @serializer unboxedJSON
function() list(status = "ok")

#* Distances at which cars stop, by their speeds.
#* @post /predict
function(req) {
  speeds <- req$body$speed
  if (!is.numeric(speeds)) stop("speed must be a list of numbers")
  list(distance = coefficients$intercept + coefficients$speed * speeds)
}
